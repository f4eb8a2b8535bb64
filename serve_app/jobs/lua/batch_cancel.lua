-- Cancel every open item of a batch at its owner's request: {'done'}, or the reason.
local batch, owner = ...

local function cancel(index)
  local item = batch .. '/' .. index
  local job = redis.call('HGET', items_key(batch), index .. ':job')
  local record = job and load(job)
  if record and may(record, 'CANCELLED') then
    finish(record, 'CANCELLED', 'cancelled', {})
    let_expire(record, false)
  elseif awaits_fetch(item) then
    end_fetch(item, owner)
    finish_item(item, NOW, 'CANCELLED')
  end
end

local size, reason = owned_batch_size(batch, owner)
if not size then return { reason } end
for index = 0, size - 1 do cancel(index) end
return { 'done' }
