-- Removes the record of one election, whatever it is, if it still is the one that was watched.
--
-- Whoever is elected next has the clock for a floor: so a record whose epoch the clock has not passed stays, and a late
-- request of before, with a clock of before, finds what was highest in "forgotten".
-- ARGV: 4 election, 5 the digest of that record that an earlier answer gave, or nothing, if only the digest is wanted.
-- The answer is "none", "seen", "ahead", "moved" or "forgotten", and the digest.

local function forget(election, watched)
    local old = read(election)
    if not old then
        return 'none', ''
    end
    local shown = redis.sha1hex(birth .. ' ' .. memory .. ' ' .. old.text)
    if old.readable and number(old.highest) >= number(now()) then
        return 'ahead', shown
    elseif watched == '' then
        return 'seen', shown
    elseif watched ~= shown then
        return 'moved', shown
    end
    if old.readable then
        local before = redis.call('HGET', hash, 'forgotten')
        redis.call('HSET', hash, 'forgotten', larger(old.highest, before and number(before) and before or '0'))
    end
    redis.call('HDEL', hash, 'e:' .. election)
    return 'forgotten', shown
end

return answer(counted and {forget(ARGV[4], ARGV[5])} or {})
