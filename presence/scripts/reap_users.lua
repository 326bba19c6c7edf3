-- Takes the connections of a fenced instance offline, of some users.
-- KEYS: counters, users of the dead, online, seen, a key for each user. ARGV: dead, the users.
-- Returns 1, or 0 when the instance isn't fenced.
local prefix = ARGV[1] .. '.'
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
	return 0
end
for i = 2, #ARGV do
	local key = KEYS[i + 3]
	for _, field in ipairs(redis.call('HKEYS', key)) do
		if string.sub(field, 1, #prefix) == prefix then
			redis.call('HDEL', key, field)
		end
	end
	if redis.call('HLEN', key) == redis.call('HEXISTS', key, '@') + redis.call('HEXISTS', key, '~') then
		redis.call('DEL', key)
		redis.call('ZREM', KEYS[3], ARGV[i])
		redis.call('ZREM', KEYS[4], ARGV[i])
	end
	redis.call('SREM', KEYS[2], ARGV[i])
end
return 1
