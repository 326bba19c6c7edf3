package ratelimit

import (
	"testing"
	"time"
)

func TestPolicyField(t *testing.T) {
	for want, l := range map[string]Limit{
		`"publish";q=50;w=1`:     {Name: "publish", Events: 50, Window: time.Second},
		`"daily";q=1000;w=86400`: {Name: "daily", Events: 1000, Window: 24 * time.Hour},
		`"brief";q=5`:            {Name: "brief", Events: 5, Window: 100 * time.Millisecond},
		`"odd";q=5`:              {Name: "odd", Events: 5, Window: 1500 * time.Millisecond},
		`"a\"b\\c";q=1;w=1`:      {Name: `a"b\c`, Events: 1, Window: time.Second},
		`"%c3%a9%0d%0a";q=1;w=1`: {Name: "é\r\n", Events: 1, Window: time.Second},
	} {
		if got := PolicyField(l); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLimitFieldAndRetryAfter(t *testing.T) {
	l := Limit{Name: "publish", Events: 50, Window: time.Second}
	for _, c := range []struct {
		d            Decision
		field, retry string
	}{
		{Decision{Allowed: true, Remaining: 12, Next: 5001 * time.Millisecond, Reset: time.Minute}, `"publish";r=12;t=6`, "0"},
		{Decision{Next: time.Millisecond, RetryAfter: time.Millisecond}, `"publish";r=0;t=1`, "1"},
		{Decision{Next: 2 * time.Second, RetryAfter: 2 * time.Second}, `"publish";r=0;t=2`, "2"},
		{Decision{Next: 2*time.Second + 1, RetryAfter: 2*time.Second + 1}, `"publish";r=0;t=3`, "3"},
	} {
		if got := LimitField(l, c.d); got != c.field {
			t.Errorf("%+v: %q, want %q", c.d, got, c.field)
		}
		if got := RetryAfterField(c.d); got != c.retry {
			t.Errorf("%+v: Retry-After %q, want %q", c.d, got, c.retry)
		}
	}
}

func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]int64{
		0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, MaxWindow: 604_800_000,
	} {
		if got := Milliseconds(d); got != want {
			t.Errorf("Milliseconds(%s) = %d, want %d", d, got, want)
		}
	}
}
