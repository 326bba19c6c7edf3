package ratelimit

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"strconv"
	"strings"
)

// maxSubject is the longest subject that is stored as it is, in bytes: users choose subjects.
const maxSubject = 128

const hashedSubject = "sha256:"

// subject returns key, or its hash when it is long. What looks like a hash is hashed too, so that nobody can name himself
// as somebody else's hash.
func subject(key string) string {
	if len(key) <= maxSubject && !strings.HasPrefix(key, hashedSubject) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hashedSubject + hex.EncodeToString(sum[:])
}

// redisKey names the state of key in Redis. The numbers of the limit are part of it, because a state makes no sense to
// another algorithm, window or number of buckets.
func redisKey(prefix string, l Limit, key string) string {
	var room [64]byte
	numbers := append(room[:0], l.Algorithm...)
	numbers = strconv.AppendInt(append(numbers, ','), int64(l.Events), 10)
	numbers = strconv.AppendInt(append(numbers, ','), int64(l.Window), 10)
	if l.Algorithm == SlidingCounter {
		numbers = strconv.AppendInt(append(numbers, ','), buckets, 10)
	}
	h := fnv.New32a()
	_, _ = h.Write(numbers) // a hash never returns an error
	return prefix + ":rl:" + l.Name + ":" + strconv.FormatUint(uint64(h.Sum32()), 36) + ":" + subject(key)
}
