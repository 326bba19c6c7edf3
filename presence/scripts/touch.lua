-- Marks users as active now, those who are online. KEYS: counters, seen. ARGV: instance, users...
local w = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if w == 1 then
	redis.call('HDEL', KEYS[1], ARGV[1])
	return {0}
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 2, #ARGV do
	redis.call('ZADD', KEYS[2], 'XX', now, ARGV[i])
end
return {w}
