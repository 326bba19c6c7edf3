-- Keeps the answer to a request. KEYS: the request. ARGV: what its beginning has set, what is kept, for how long in ms.
-- Returns 1, or 0 when another request has the key.
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then
	return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
