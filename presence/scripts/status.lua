-- Sets the explicit status of a user who is online, and tells every instance. KEYS: counters, the user.
-- ARGV: instance, channel, user, status.
-- Returns the write counter (0: the instance is gone).
local w = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if w == 1 then
	redis.call('HDEL', KEYS[1], ARGV[1])
	return {0}
end
if redis.call('HEXISTS', KEYS[2], '@') == 0 then
	return {w}
end
local ver, status = string.match(redis.call('HGET', KEYS[2], '~') or '', '^(%d+)\n(.*)$')
if status == ARGV[4] then
	return {w}
end
local t = redis.call('TIME')
local new = string.format('%.0f', math.max(tonumber(ver or 0) + 1, t[1] * 1000000 + t[2]))
redis.call('HSET', KEYS[2], '~', new .. '\n' .. ARGV[4])
redis.call('PUBLISH', ARGV[2], 's' .. new .. '\n' .. ARGV[3] .. '\n' .. ARGV[4])
return {w}
