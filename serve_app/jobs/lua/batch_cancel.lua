-- End every item of a batch (id, owner) that has not ended, because its owner wants it: {'done'}, or why not.
local batch, owner = ARGV[1], ARGV[2]

local function cancel(index)
  local item = batch .. '/' .. index
  local job = redis.call('HGET', items_key(batch), index .. ':job')
  local record = job and load(job)
  if record and may(record, 'CANCELLED') then
    finish(record, 'CANCELLED', 'cancelled', {})
    retire(record, false)
  elseif to_fetch(item) then
    leave_fetch(item, owner)
    settle(item, NOW, 'CANCELLED')
  end
end

local size, reason = owned_batch(batch, owner)
if not size then return { reason } end
for index = 0, size - 1 do cancel(index) end
return { 'done' }
