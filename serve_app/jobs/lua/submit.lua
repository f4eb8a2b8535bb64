-- Accept a job: {'accepted', now}, or the reason: {'known'}, {'input'}, or as in `refusal`; or, when a submit with this
-- idempotency key was accepted before, {'repeated', its fingerprint, job, time}.
local id, owner, model, priority, params, reference, bytes, pixels, media_type, traceparent,
  hash, fingerprint, keep = ...

local first = earlier_submit(hash)
if first then return first end
if redis.call('EXISTS', job_key(id)) == 1 then return { 'known' } end
local reason, in_flight = refusal(model, bytes + #params)
if reason then return reason end
local record = { id = id, owner = owner, model = model, priority = priority, params = params, reference = reference,
  bytes = bytes, pixels = pixels, media_type = media_type, traceparent = traceparent,
  keep = keep == '1' }
if not input_exists(record) then return { 'input' } end
accept(record, in_flight)
remember_request(owner, hash, fingerprint, id)
return { 'accepted', NOW }
