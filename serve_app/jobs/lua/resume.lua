-- Lift a stop (its name, the model whose dispatchers must wake or '', then the audit event): 1, or 0 when there is
-- none.
if redis.call('HDEL', stops_key(), ARGV[1]) == 0 then return 0 end
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 3))
if ARGV[2] ~= '' then wake(ARGV[2]) end
return 1
