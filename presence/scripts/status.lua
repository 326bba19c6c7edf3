-- Sets the explicit status of a user who is online, and tells every instance. KEYS: counters, the user.
-- ARGV: instance, channel, user, status, the channel of events or "", what events begin with.
-- Returns the write counter (0: the instance is gone), and the version of the status, 0 when nothing changed.
local w = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if w == 1 then
	redis.call('HDEL', KEYS[1], ARGV[1])
	return {0}
end
if redis.call('HEXISTS', KEYS[2], '@') == 0 then
	return {w, 0}
end
local ver, status = string.match(redis.call('HGET', KEYS[2], '~') or '', '^(%d+)\n(.*)$')
if status == ARGV[4] then
	return {w, 0}
end
local t = redis.call('TIME')
local new = string.format('%.0f', math.max(tonumber(ver or 0) + 1, t[1] * 1000000 + t[2]))
redis.call('HSET', KEYS[2], '~', new .. '\n' .. ARGV[4])
redis.call('PUBLISH', ARGV[2], 's' .. new .. '\n' .. ARGV[3] .. '\n' .. ARGV[4])
if ARGV[5] ~= '' then
	redis.pcall('PUBLISH', ARGV[5], string.format('%s,"event":"status","user":%s,"status":%s,"ts":%.0f}', ARGV[6], cjson.encode(ARGV[3]),
		cjson.encode(ARGV[4]), t[1] * 1000 + math.floor(t[2] / 1000)))
end
return {w, tonumber(new)}
