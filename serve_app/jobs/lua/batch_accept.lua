-- Accept a batch with all its items, or reply with the reason, as submit.lua does. An item is JSON: with `job` (id,
-- params and the stored input) it becomes that job now, with `url` it waits to be fetched, with `slug` it is refused.
local batch, owner, model, priority, traceparent, hash, fingerprint, text = ...
local items, totals = cjson.decode(text), { jobs = 0, weight = 0, urls = 0 }

local function weigh(item)
  if item.url then totals.urls, totals.weight = totals.urls + 1, totals.weight + #item.params end
  if not item.job then return true end
  totals.jobs, totals.weight = totals.jobs + 1, totals.weight + weight_of(item.job)
  return input_exists(item.job)
end

local function accept_item(index, item, in_flight)
  local place = batch .. '/' .. index
  redis.call('HSET', items_key(batch), index, cjson.encode({ name = item.name, url = item.url, params = item.params,
    weight = item.url and #item.params }))
  if item.job then
    local job = item.job
    job.owner, job.model, job.priority, job.traceparent, job.item = owner, model, priority, traceparent, place
    redis.call('HSET', items_key(batch), index .. ':job', job.id)
    accept(job, in_flight)
  elseif item.url then
    redis.call('INCR', fetches_key())
    redis.call('INCRBY', held_bytes_key(), #item.params)
    queue_fetch(place, owner, NOW_US)
  else
    finish_item(place, NOW, 'REFUSED', item.slug, item.detail)
  end
end

local function list_batch()
  local listed = batches_key(owner)
  redis.call('ZADD', listed, NOW_US, batch)
  redis.call('ZREMRANGEBYRANK', listed, 0, -(LISTED_MAX + 1))
  redis.call('EXPIRE', listed, LISTED_TTL_S)
end

local first = earlier_submit(hash)
if first then return first end
if redis.call('EXISTS', batch_key(batch)) == 1 then return { 'known' } end
for _, item in ipairs(items) do
  if not weigh(item) then return { 'input' } end
end
local reason, in_flight = refusal(model, totals.weight, totals.jobs)
if reason then return reason end
if (redis.call('GET', fetches_key()) or 0) + totals.urls > QUEUE_MAX_JOBS then return { 'jobs' } end
redis.call('HSET', batch_key(batch), 'v', VERSION, 'owner', owner, 'model', model, 'priority', priority,
  'traceparent', traceparent, 'submitted_at', NOW, 'size', #items, 'open', #items)
remember_request(owner, hash, fingerprint, batch)
list_batch()
for place, item in ipairs(items) do
  accept_item(place - 1, item, in_flight)
  if item.job then in_flight = in_flight + 1 end
end
return { 'accepted', NOW }
