-- The service itself failed on an item (item, owner, slug, detail): {'again'}, and it is taken again when the time of who
-- has it is over; or {'refused'} after too many such faults; or {'known'} when it was decided before.
local item, owner, slug, detail = unpack(ARGV)
if not to_fetch(item) then return { 'known' } end
local batch, index = parts_of(item)
if redis.call('HINCRBY', items_key(batch), index .. ':faults', 1) < FETCH_FAULTS_MAX then return { 'again' } end
leave_fetch(item, owner)
settle(item, NOW, 'REFUSED', slug, detail)
return { 'refused' }
