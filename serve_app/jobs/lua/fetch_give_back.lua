-- Give back a claimed item (item, owner) that is not decided: another gateway may claim it at once.
local item, owner = unpack(ARGV)
if redis.call('ZREM', fetching_key(), item) == 1 and awaits_fetch(item) then queue_fetch(item, owner, NOW_US) end
