-- Accept a job, or say why not: {'accepted', now} | {'known'} | {'input'}, or as `refusal` says; or, where a submit
-- with this idempotency key was accepted before, {'repeated', its fingerprint, job, time}.
local id, owner, model, priority, params, reference, bytes, pixels, media_type, traceparent,
  hash, fingerprint, keep = unpack(ARGV)

local first = repeated(hash)
if first then return first end
if redis.call('EXISTS', job_key(id)) == 1 then return { 'known' } end
local reason, in_flight = refusal(model, bytes + #params)
if reason then return reason end
local record = { id = id, owner = owner, model = model, priority = priority, params = params, reference = reference,
  bytes = bytes, pixels = pixels, media_type = media_type, traceparent = traceparent,
  keep = keep == '1' }
if not input_is_there(record) then return { 'input' } end
accept(record, in_flight)
remember(owner, hash, fingerprint, id)
return { 'accepted', NOW }
