-- Takes a connection offline. KEYS: counters, users of the instance, the user, online, seen.
-- ARGV: instance, connection, user, 1 if the user has another connection on the instance.
-- Returns the write counter (0: the instance is gone).
local w = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if w == 1 then
	redis.call('HDEL', KEYS[1], ARGV[1])
	return {0}
end
redis.call('HDEL', KEYS[3], ARGV[1] .. '.' .. ARGV[2])
if ARGV[4] == '0' then
	redis.call('SREM', KEYS[2], ARGV[3])
end
if redis.call('HLEN', KEYS[3]) == redis.call('HEXISTS', KEYS[3], '@') + redis.call('HEXISTS', KEYS[3], '~') then
	redis.call('DEL', KEYS[3])
	redis.call('ZREM', KEYS[4], ARGV[3])
	redis.call('ZREM', KEYS[5], ARGV[3])
end
return {w}
