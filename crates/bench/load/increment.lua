-- Random keys, random values, by POST. Arguments: keys, seconds, tail_s, seed, form, increments in a
-- request, requests pipelined, digits of a key's number.
--
-- Each thread adds up what it sends. In the last `tail_s` seconds it sends only zeros: the same
-- request at the same cost, so that whatever is in flight at the stop adds nothing, and the sums
-- that were sent can be compared with what is stored.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long s; long ns; } incrementer_time;
  int clock_gettime(int clock, incrementer_time *now);
]]

-- The largest value, and the modulus of the weighted sum; doubles are exact up to 2^53.
local MAX_VALUE = 1000
local MODULUS = 2 ^ 52
local MONOTONIC = 1

local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

local time = ffi.new("incrementer_time")
local function now()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end

local keys, seconds, tail_s, per_request, pipelined, head, body_of
local random = math.random

local function with_head(body)
  return head .. #body .. "\r\n\r\n" .. body
end

-- Bodies of many increments are made before the load begins: making them takes longer than to send
-- them. Each is {request, what it adds to the sum, what it adds to the weighted sum}.
local BODIES, ZERO_BODIES = 64, 8
local bodies, zero_bodies

local function bulk(value_of)
  local entries, sum, weight = {}, 0, 0
  for place = 1, per_request do
    local key, value = random(keys), value_of()
    entries[place] = string.format(body_of, key, value)
    sum, weight = sum + value, weight + key * value
  end
  return { with_head("[" .. table.concat(entries, ",") .. "]"), sum, weight }
end

function init(arguments)
  keys, seconds, tail_s = tonumber(arguments[1]), tonumber(arguments[2]), tonumber(arguments[3])
  math.randomseed(tonumber(arguments[4]) + number * 104729)
  per_request, pipelined = tonumber(arguments[6]), tonumber(arguments[7])
  local digits = tonumber(arguments[8])
  body_of = '{"key":"key-%0' .. digits .. 'd","value":%d}'
  if arguments[5] == "webdis" then
    body_of = "INCRBY/key-%0" .. digits .. "d/%d"
  end
  head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
  sent, weighted = 0, 0
  if per_request > 1 then
    bodies, zero_bodies = {}, {}
    for place = 1, BODIES do
      bodies[place] = bulk(function() return random(MAX_VALUE) end)
    end
    for place = 1, ZERO_BODIES do
      zero_bodies[place] = bulk(function() return 0 end)
    end
  end
end

local function one(only_zeros)
  if per_request > 1 then
    local body = only_zeros and zero_bodies[random(ZERO_BODIES)] or bodies[random(BODIES)]
    sent = sent + body[2]
    weighted = (weighted + body[3]) % MODULUS
    return body[1]
  end
  local key, value = random(keys), random(MAX_VALUE)
  if only_zeros then
    value = 0
  end
  sent = sent + value
  weighted = (weighted + key * value) % MODULUS
  return with_head(string.format(body_of, key, value))
end

local zeros_from
local group = {}

function request()
  local at = now()
  local only_zeros = zeros_from == nil or at >= zeros_from
  if zeros_from == nil then
    -- wrk may call once just to look at a request, so the first adds nothing either.
    zeros_from = at + seconds - tail_s
  end
  if pipelined == 1 then
    return one(only_zeros)
  end
  for place = 1, pipelined do
    group[place] = one(only_zeros)
  end
  return table.concat(group)
end

function done(summary, latency, requests)
  local all_sent, all_weighted = 0, 0
  for _, thread in ipairs(threads) do
    all_sent = all_sent + thread:get("sent")
    all_weighted = (all_weighted + thread:get("weighted")) % MODULUS
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,'
      .. '"latency_us":{"mean":%.3f,"p50":%.0f,"p90":%.0f,"p99":%.0f,"p999":%.0f,"max":%.0f},'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d},'
      .. '"sent":%.0f,"weighted":%.0f}\n',
    summary.requests, summary.duration / 1e6,
    latency.mean, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency:percentile(99.9), latency.max,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status,
    all_sent, all_weighted))
end
