-- Lift a stop, wake the dispatchers of `model` (unless it is ''), and write the audit event: 1, or 0 when there is no
-- such stop.
local name, model = ...
if redis.call('HDEL', stops_key(), name) == 0 then return 0 end
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', select(3, ...))
if model ~= '' then wake(model) end
return 1
