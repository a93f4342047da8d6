-- Extends seats that are held, and lets a sitting leader take further voters.
--
-- ARGV from 4: the birth whose quarantine is over (or nothing), then for each election:
--   election, epoch, attempt, beat, ttl, value, word, enrol, stamp, clock, the birth in which that clock was read, the
--   birth at which it was last renewed here.
-- `enrol` is 1 while the leader's own deadline lay ahead when this was sent. Then it may take a released seat, one of a
-- lower epoch, one whose present stamp it has watched for its full ttl, and, above the clock, one of another memory.
-- A record that is gone although the memory is the same was taken away on purpose: it is not written again.
-- Each answer is a pair: "renewed", "refused", "gone" or "unreadable", and the record as it now is.

local function renew(election, epoch, attempt, beat, ttl, value, word, enrol, stamp, clock, clock_of, known)
    local old = read(election)
    if old and not old.readable then
        return 'unreadable', ''
    end
    local floor
    if old and old.birth == birth then
        if old.attempt == attempt then
            -- A seat that this attempt has given back stays so, and a late request does not put the stamp back.
            if not old.held or old.epoch ~= number(epoch) or old.beat >= number(beat) then
                return 'refused', old.text
            end
            floor = old.floor_digits
        elseif enrol == '1'
            and (not old.held or old.epoch < number(epoch) or old.attempt .. '.' .. old.beat_digits == stamp) then
            floor = old.highest
        else
            return 'refused', old.text
        end
    else
        if not old and known == birth then
            return 'gone', ''
        end
        if enrol ~= '1' or not is_floor(clock, clock_of) then
            return 'refused', old and old.text or ''
        end
        if old and old.attempt == attempt and not old.held then
            return 'refused', old.text
        end
        floor = old and larger(clock, old.highest) or clock
    end
    return 'renewed', write(election, word, {
        epoch = epoch, floor = floor, attempt = attempt, beat = beat, state = 'held', ttl = ttl, birth = birth,
        value = value,
    })
end

local answers = {}
if standing == 'unknown' and birth == ARGV[4] then
    mark('healthy')
end
for place = 5, #ARGV, 12 do
    if standing == 'healthy' then
        answers[#answers + 1] = {
            renew(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], ARGV[place + 4], ARGV[place + 5],
                ARGV[place + 6], ARGV[place + 7], ARGV[place + 8], ARGV[place + 9], ARGV[place + 10],
                ARGV[place + 11])
        }
    end
end
return answer(answers)
