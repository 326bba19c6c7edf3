-- Reads all decisions, unless the caller has them. KEYS: the decisions. ARGV: the version that the caller has, then fields to forget, each
--   with the time of the decision that nobody needs any more.
-- Returns the time in microseconds, and if the version is another one, that, "0" when there is nothing, and fields with decisions.
for i = 2, #ARGV, 2 do
	local value = redis.call('HGET', KEYS[1], ARGV[i])
	if value and string.match(value, '^%d+') == ARGV[i + 1] then
		redis.call('HDEL', KEYS[1], ARGV[i])
	end
end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
local version = redis.call('HGET', KEYS[1], 'v') or '0'
if version == ARGV[1] then
	return {now}
end
return {now, version, redis.call('HGETALL', KEYS[1])}
