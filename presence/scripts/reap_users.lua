-- Takes the connections of a fenced instance offline, of some users.
-- KEYS: counters, users of the dead, online, seen, a key for each user. ARGV: dead, the channel of events or "", what events begin with, the users.
-- Returns 1, or 0 when the instance isn't fenced.
local prefix = ARGV[1] .. '.'
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
	return 0
end
local t = redis.call('TIME')
for i = 4, #ARGV do
	local key = KEYS[i + 1]
	for _, field in ipairs(redis.call('HKEYS', key)) do
		if string.sub(field, 1, #prefix) == prefix then
			redis.call('HDEL', key, field)
		end
	end
	if redis.call('HLEN', key) == redis.call('HEXISTS', key, '@') + redis.call('HEXISTS', key, '~') then
		redis.call('DEL', key)
		redis.call('ZREM', KEYS[4], ARGV[i])
		if redis.call('ZREM', KEYS[3], ARGV[i]) == 1 and ARGV[2] ~= '' then
			redis.pcall('PUBLISH', ARGV[2], string.format('%s,"event":"offline","user":%s,"ts":%.0f}', ARGV[3], cjson.encode(ARGV[i]),
				t[1] * 1000 + math.floor(t[2] / 1000)))
		end
	end
	redis.call('SREM', KEYS[2], ARGV[i])
end
return 1
