-- The service itself failed on an item: {'again'}, and it is claimed again when its claim expires; {'refused'} after
-- too many faults; {'known'} when it had already ended or become a job.
local item, owner, slug, detail = ...
if not awaits_fetch(item) then return { 'known' } end
local batch, index = parts_of(item)
if redis.call('HINCRBY', items_key(batch), index .. ':faults', 1) < FETCH_FAULTS_MAX then return { 'again' } end
end_fetch(item, owner)
finish_item(item, NOW, 'REFUSED', slug, detail)
return { 'refused' }
