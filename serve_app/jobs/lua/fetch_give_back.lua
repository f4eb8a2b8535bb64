-- Who has an item (item, owner) ends before it is decided: another takes it at once.
local item, owner = unpack(ARGV)
if redis.call('ZREM', fetching_key(), item) == 1 and to_fetch(item) then enter_fetch(item, owner, NOW_US) end
