package ratelimit_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

func ExampleMemory() {
	limiter := ratelimit.NewMemory()
	limit := ratelimit.Limit{Name: "chat", Events: 2, Window: time.Hour, Algorithm: ratelimit.SlidingLog}
	for range 3 {
		d, err := limiter.Allow(context.Background(), limit, "ann")
		fmt.Println(d.Allowed, d.Remaining, d.RetryAfter.Round(time.Minute), err)
	}
	// Output:
	// true 1 0s <nil>
	// true 0 0s <nil>
	// false 0 1h0m0s <nil>
}

// All processes that share a Redis share the limit, here with nothing but a go-redis client.
func ExampleRedis() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
	defer client.Close()
	limiter := ratelimit.NewRedis(client, ratelimit.RedisOptions{Prefix: "shop"})
	limit := ratelimit.Limit{Name: "login", Events: 5, Window: time.Minute, Algorithm: ratelimit.SlidingCounter}

	d, err := limiter.Allow(context.Background(), limit, "203.0.113.7")
	switch {
	case err != nil:
		fmt.Println("redis is out of reach:", err)
	case !d.Allowed:
		fmt.Println("try again in", d.RetryAfter)
	}
}

// A handler that goes on limiting by itself while Redis is down, and tells clients where they stand.
func ExampleFallback() {
	client := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: []string{"localhost:6379"}, ContextTimeoutEnabled: true,
	})
	limiter := ratelimit.Fallback{
		Shared: ratelimit.NewRedis(client, ratelimit.RedisOptions{Prefix: "shop"}),
		Local:  ratelimit.NewMemory(),
		Outage: ratelimit.OutageLocal,
	}
	limit := ratelimit.Limit{Name: "api", Events: 100, Window: time.Minute, Algorithm: ratelimit.SlidingCounter}

	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d, err := limiter.Allow(r.Context(), limit, r.PathValue("user"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Add(ratelimit.PolicyHeader, ratelimit.PolicyField(limit))
		w.Header().Add(ratelimit.LimitHeader, ratelimit.LimitField(limit, d))
		if !d.Allowed {
			w.Header().Set("Retry-After", ratelimit.RetryAfterField(d))
			http.Error(w, "too many requests", http.StatusTooManyRequests)
		}
	})
}
