package ratelimit

import "time"

// buckets divide a window of the sliding counter. One more is counted, because a window rarely begins where a bucket does.
const buckets = 20

// bucketWidth is at least a twentieth of a window, in the whole microseconds that Redis counts in.
func bucketWidth(window time.Duration) time.Duration {
	return time.Duration(ceil(window, buckets*time.Microsecond)) * time.Microsecond
}

// counter is the state of SlidingCounter.
type counter struct {
	newest int64 // the number of the last bucket, counted from the start of the clock
	counts [buckets + 1]uint32
}

func (c *counter) take(l Limit, now time.Duration) Decision {
	width := bucketWidth(l.Window)
	bucket := int64(now / width)
	if shift := min(bucket-c.newest, int64(len(c.counts))); shift > 0 {
		kept := copy(c.counts[:], c.counts[shift:])
		clear(c.counts[kept:])
		c.newest = bucket
	}
	sum := 0
	for _, n := range c.counts {
		sum += int(n)
	}
	allowed := sum < l.Events
	if allowed {
		c.counts[buckets]++
		sum++
	}
	return decision(allowed, l.Events-sum, c.free(c.last(), width)-now, c.free(c.first(), width)-now)
}

func (c *counter) idle(l Limit, now time.Duration) bool {
	last := c.last()
	return last < 0 || c.free(last, bucketWidth(l.Window)) <= now
}

// free is when the events of the bucket at index i no longer count.
func (c *counter) free(i int, width time.Duration) time.Duration {
	return time.Duration(c.newest+int64(i)+1) * width
}

// first returns the index of the oldest bucket with events, or -1.
func (c *counter) first() int {
	for i, n := range c.counts {
		if n > 0 {
			return i
		}
	}
	return -1
}

// last returns the index of the newest bucket with events, or -1.
func (c *counter) last() int {
	for i := buckets; i >= 0; i-- {
		if c.counts[i] > 0 {
			return i
		}
	}
	return -1
}
