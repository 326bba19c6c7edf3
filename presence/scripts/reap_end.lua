-- Takes back the lease of an instance of which nothing is left. KEYS: leases, reasons, rooms and users of the instance.
-- ARGV: instance. Returns 0 when something is left or somebody else was faster, 1 when the instance had died, 2 when it had given up its lease.
if redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then
	return 0
end
local retired = redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then
	return 0
end
return 1 + retired
