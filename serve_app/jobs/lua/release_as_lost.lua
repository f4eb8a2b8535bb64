-- Count the delivery of jobs that this lease holds as lost: how many it held. `kind`: '' for a lost replica; 'suspects': the
-- jobs run alone from now on; 'transient': the model failed for a reason that may pass, so fewer deliveries make a job dead.
local token, reason, kind = ...
local lost = 0
for _, id in ipairs({ select(4, ...) }) do
  local record = load_held(id, token)
  if record and may(record, 'PENDING') then
    release_as_lost(record, reason, kind)
    wake(record.model)
    lost = lost + 1
  end
end
return lost
