-- Takes back the lease of an instance of which nothing is left. KEYS: leases, reasons, rooms and users of the dead.
-- ARGV: dead. Returns 1 when nothing was left.
if redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then
	return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
