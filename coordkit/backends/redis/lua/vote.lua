-- Asks for the vote in some elections: one grant for an epoch, and only for a higher one than any before.
--
-- ARGV from 4: the birth whose quarantine is over (or nothing), then for each election:
--   election, epoch, attempt, ttl, value, the stamp that was watched for its full ttl (or nothing), clock (or nothing),
--   the birth in which that clock was read.
-- A seat that is held is granted only to who names its present stamp. Where the record is of another memory, or there
-- is none, earlier epochs may be forgotten: the vote has to be above the clock, which becomes the floor.
-- Each answer is a pair: "granted", "refused" or "unreadable", and the record as it now is.

local function vote(election, epoch, attempt, ttl, value, stamp, clock, clock_of)
    local old = read(election)
    if old and not old.readable then
        return 'unreadable', ''
    end
    local floor
    if old and old.birth == birth then
        if old.attempt == attempt then -- the same request, once more
            return old.held and 'granted' or 'refused', old.text
        end
        if old.held and old.attempt .. '.' .. old.beat_digits ~= stamp then
            return 'refused', old.text
        end
        floor = old.highest
    else
        if not is_floor(clock, clock_of) then
            return 'refused', old and old.text or ''
        end
        floor = old and larger(clock, old.highest) or clock
    end
    if number(epoch) <= number(floor) then
        return 'refused', old and old.text or ''
    end
    return 'granted', write(election, 'held', {
        epoch = epoch, floor = floor, attempt = attempt, beat = '0', state = 'held', ttl = ttl, birth = birth, value = value,
    })
end

local answers = {}
if standing == 'unknown' and birth == ARGV[4] then
    mark('healthy')
end
for place = 5, #ARGV, 8 do
    if standing == 'healthy' then
        answers[#answers + 1] = {
            vote(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], ARGV[place + 4], ARGV[place + 5],
                ARGV[place + 6], ARGV[place + 7])
        }
    end
end
return answer(answers)
