-- Record the outcome of a fetch, a slug and its detail, or '', '' and the job: {'done'}; {'known'} when the item had
-- already ended or become a job; or the reason why it cannot become a job now, as in submit.lua.
local item, owner, slug, detail = ...
if not awaits_fetch(item) then return { 'known' } end
if slug ~= '' then
  end_fetch(item, owner)
  finish_item(item, NOW, 'REFUSED', slug, detail)
  return { 'done' }
end
local batch, index = parts_of(item)
local record = { item = item, owner = owner }
record.id, record.params, record.reference, record.bytes, record.pixels, record.media_type = select(5, ...)
record.model, record.priority, record.traceparent =
  unpack(redis.call('HMGET', batch_key(batch), 'model', 'priority', 'traceparent'))
local reason, in_flight = refusal(record.model, record.bytes)
if reason then return reason end
if not input_exists(record) then return { 'input' } end
accept(record, in_flight)
redis.call('HSET', items_key(batch), index .. ':job', record.id)
end_fetch(item, owner)
return { 'done' }
