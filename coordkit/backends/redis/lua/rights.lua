-- Which of a candidate's commands this user may not use. Writes nothing; stands alone, without common.lua.
--
-- KEYS[1] is the key of the voter, ARGV[1] a channel of its. The answer is their names, or nothing where the server
-- cannot tell (before Redis 7.0).

local key, channel, denied = KEYS[1], ARGV[1], {}
if not redis.acl_check_cmd then
    return false
end
for _, call in ipairs({
    {'EVALSHA', 'x', '1', key}, {'HGET', key, 'x'}, {'HSET', key, 'x', 'x'}, {'INFO', 'server'}, {'TIME'},
    {'PUBLISH', channel, 'x'}, {'PUBSUB', 'NUMSUB', channel}, {'SUBSCRIBE', channel}, {'UNSUBSCRIBE', channel},
}) do
    if not redis.acl_check_cmd(unpack(call)) then
        denied[#denied + 1] = string.lower(call[1])
    end
end
return denied
