-- KEYS[2]: a hash. ARGV[3] …: fields and values by turns.
return outcome(redis.pcall('HSET', KEYS[2], unpack(ARGV, 3)))
