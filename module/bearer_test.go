package module

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestClaimText shows numbers as the token has them.
func TestClaimText(t *testing.T) {
	for text, want := range map[string]string{
		`null`: "", `"red"`: "red", `true`: "true", `1.50`: "1.50", `1e3`: "1e3", `-0`: "-0",
		`9007199254740993`:                             "9007199254740993",
		`[9007199254740993,"x"]`:                       `[9007199254740993,"x"]`,
		`{"a":{"b":[123456789012345678901234567890]}}`: `{"a":{"b":[123456789012345678901234567890]}}`,
	} {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		var claim any
		if err := d.Decode(&claim); err != nil {
			t.Fatal(err)
		}
		if got := claimText(claim); got != want {
			t.Errorf("%s is %s", text, got)
		}
	}
}

// TestTokenNumbers leads nobody to the room of another whose number is near.
func TestTokenNumbers(t *testing.T) {
	client := roomstest.Connect(t, startTokens(t).URL("/all"), nil, bearer(mint(t, claims{"sub": "ann", "team": 9007199254740993})))
	client.Welcome()
	for _, room := range []string{"user:ann", "9007199254740993"} {
		if ack := client.Next("ack"); ack["room"] != room {
			t.Errorf("joined %v, want %s", ack["room"], room)
		}
	}
}
