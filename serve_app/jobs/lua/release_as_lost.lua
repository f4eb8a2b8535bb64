-- Count the delivery of jobs that this lease holds as lost, and with `suspects` make them suspects: how many it held.
local token, reason, suspects = ...
local lost = 0
for _, id in ipairs({ select(4, ...) }) do
  local record = load_held(id, token)
  if record and may(record, 'PENDING') then
    release_as_lost(record, reason, suspects == '1')
    wake(record.model)
    lost = lost + 1
  end
end
return lost
