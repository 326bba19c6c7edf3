-- Forgets a request, unless another one has the key. KEYS: the request. ARGV: what its beginning has set. Returns how many were forgotten.
if redis.call('GET', KEYS[1]) == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
return 0
