-- Puts a connection online. KEYS: counters, users of the instance, the user, online, seen.
-- ARGV: instance, connection, user, device, the explicit status that the instance knows or "", its version.
-- Returns the write counter (0: the instance is gone), the user's explicit status behind its version and \n, or "".
local w = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if w == 1 then
	redis.call('HDEL', KEYS[1], ARGV[1])
	return {0}
end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('HSET', KEYS[3], ARGV[1] .. '.' .. ARGV[2], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[3])
if redis.call('HSETNX', KEYS[3], '@', now) == 1 then
	-- One score for all, so that the set can be read in the order of the ids.
	redis.call('ZADD', KEYS[4], 0, ARGV[3])
end
redis.call('ZADD', KEYS[5], now, ARGV[3])
if ARGV[5] ~= '' then
	redis.call('HSETNX', KEYS[3], '~', ARGV[6] .. '\n' .. ARGV[5])
end
return {w, redis.call('HGET', KEYS[3], '~') or ''}
