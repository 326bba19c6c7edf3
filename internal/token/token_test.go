package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var (
	secret     = []byte("0123456789abcdef0123456789abcdef")
	rsaKey     = must(rsa.GenerateKey(rand.Reader, 2048))
	otherRSA   = must(rsa.GenerateKey(rand.Reader, 2048))
	shortRSA   = must(rsa.GenerateKey(rand.Reader, 1024))
	ecKey      = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey   = must2(ed25519.GenerateKey(rand.Reader))
	now        = time.Unix(1_795_000_000, 0)
	soon, past = now.Add(time.Minute).Unix(), now.Add(-time.Minute).Unix()
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

type claims map[string]any

// sign makes a token as a backend does.
func sign(t testing.TB, algorithm jose.SignatureAlgorithm, key any, c claims) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(s).Claims(map[string]any(c)).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// forge makes a token out of its parts.
func forge(header, payload string, signature []byte) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64(signature)
}

func publicPEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func verifier(t testing.TB, o Options) *Verifier {
	t.Helper()
	o.now = func() time.Time { return now }
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	all := Options{
		Secrets: [][]byte{[]byte("another secret, which is the older one"), secret}, Keys: []any{rsaKey.Public(), ecKey.Public(), edKey.Public()},
		Issuer: "app", Audience: "rooms", Leeway: 10 * time.Second,
	}
	good := claims{"sub": "42", "iss": "app", "aud": "rooms", "exp": soon}
	with := func(key string, value any) claims {
		c := claims{}
		maps.Copy(c, good)
		if c[key] = value; value == nil {
			delete(c, key)
		}
		return c
	}
	pemOfRSA := publicPEM(t, rsaKey.Public())
	onlyKeys, onlySecrets := all, all
	onlyKeys.Secrets, onlySecrets.Keys = nil, nil
	only512 := all
	only512.Algorithms = []string{"HS512", "RS512"}
	for _, test := range []struct {
		name string
		opts Options
		raw  string
		want error // nil: valid
	}{
		{"HS256", all, sign(t, jose.HS256, secret, good), nil},
		{"HS512", all, sign(t, jose.HS512, []byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"), good), ErrInvalid},
		{"the older secret", all, sign(t, jose.HS256, all.Secrets[0], good), nil},
		{"RS256", all, sign(t, jose.RS256, rsaKey, good), nil},
		{"PS256", all, sign(t, jose.PS256, rsaKey, good), nil},
		{"ES256", all, sign(t, jose.ES256, ecKey, good), nil},
		{"EdDSA", all, sign(t, jose.EdDSA, edKey, good), nil},
		{"several audiences", all, sign(t, jose.HS256, secret, with("aud", []string{"web", "rooms"})), nil},
		{"never expires", all, sign(t, jose.HS256, secret, with("exp", nil)), nil},
		{"expired within the leeway", all, sign(t, jose.HS256, secret, with("exp", now.Add(-5*time.Second).Unix())), nil},
		{"expiry in milliseconds", all, sign(t, jose.HS256, secret, with("exp", time.Now().Add(time.Hour).UnixMilli())), ErrInvalid},
		{"expired", all, sign(t, jose.HS256, secret, with("exp", past)), ErrExpired},
		{"not yet valid", all, sign(t, jose.HS256, secret, with("nbf", soon)), ErrInvalid},
		{"issued in the future", all, sign(t, jose.HS256, secret, with("iat", soon)), ErrInvalid},
		{"wrong issuer", all, sign(t, jose.HS256, secret, with("iss", "evil")), ErrInvalid},
		{"no issuer", all, sign(t, jose.HS256, secret, with("iss", nil)), ErrInvalid},
		{"wrong audience", all, sign(t, jose.HS256, secret, with("aud", "other")), ErrInvalid},
		{"no audience", all, sign(t, jose.HS256, secret, with("aud", nil)), ErrInvalid},
		{"no sub", all, sign(t, jose.HS256, secret, with("sub", nil)), ErrInvalid},
		{"sub is no string", all, sign(t, jose.HS256, secret, with("sub", 42)), ErrInvalid},
		{"exp is no number", all, sign(t, jose.HS256, secret, with("exp", "tomorrow")), ErrInvalid},
		{"state is no object", all, sign(t, jose.HS256, secret, with("state", []int{1})), ErrInvalid},
		{"rooms is no object", all, sign(t, jose.HS256, secret, with("rooms", []string{"lobby"})), ErrInvalid},
		{"unknown right", all, sign(t, jose.HS256, secret, with("rooms", claims{"*": []string{"admin"}})), ErrInvalid},
		{"another secret", all, sign(t, jose.HS256, []byte("not the one that they have agreed on"), good), ErrInvalid},
		{"another key", all, sign(t, jose.RS256, otherRSA, good), ErrInvalid},
		{"alg none", all, forge(`{"alg":"none"}`, `{"sub":"42","iss":"app","aud":"rooms"}`, nil), ErrInvalid},
		{"alg None", all, forge(`{"alg":"None"}`, `{"sub":"42","iss":"app","aud":"rooms"}`, nil), ErrInvalid},
		{"no alg", all, forge(`{}`, `{"sub":"42","iss":"app","aud":"rooms"}`, nil), ErrInvalid},
		{"HS256 by the public key, where only keys are known", onlyKeys, sign(t, jose.HS256, pemOfRSA, good), ErrInvalid},
		{"HS256 by the public key, where both are known", all, sign(t, jose.HS256, pemOfRSA, good), ErrInvalid},
		{"RS256 where only secrets are known", onlySecrets, sign(t, jose.RS256, rsaKey, good), ErrInvalid},
		{"an algorithm that is not allowed", only512, sign(t, jose.HS256, secret, good), ErrInvalid},
		{"its own key in the header", onlyKeys, embedded(t, good), ErrInvalid},
		{"signature cut off", all, strings.TrimRight(sign(t, jose.HS256, secret, good), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"), ErrInvalid},
		{"payload changed", all, changed(sign(t, jose.HS256, secret, good)), ErrInvalid},
		{"nothing", all, "", ErrInvalid},
		{"no token", all, "a.b.c", ErrInvalid},
		{"JSON serialization", all, `{"payload":"","protected":"","signature":""}`, ErrInvalid},
		{"too long", all, sign(t, jose.HS256, secret, with("x", strings.Repeat("x", MaxLength))), ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := verifier(t, test.opts).Verify(t.Context(), test.raw)
			if !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if test.want == nil && c.User != "42" {
				t.Errorf("user %q", c.User)
			}
		})
	}
}

// embedded makes a token whose header has the key that it is signed by.
func embedded(t *testing.T, c claims) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: otherRSA}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	return must(jwt.Signed(s).Claims(map[string]any(c)).Serialize())
}

// changed makes the user of a token another one.
func changed(raw string) string {
	parts := strings.Split(raw, ".")
	payload := must(base64.RawURLEncoding.DecodeString(parts[1]))
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), `"42"`, `"43"`, 1)))
	return strings.Join(parts, ".")
}

func TestClaims(t *testing.T) {
	v := verifier(t, Options{Secrets: [][]byte{secret}, Leeway: 10 * time.Second})
	raw := sign(t, jose.HS256, secret, claims{
		"sub": "42", "exp": soon, "plan": "gold", "state": claims{"name": "Ann"}, "team": 9007199254740993, "teams": []any{json.RawMessage("1.50")},
		"rooms": claims{"chat:*": []string{"join", "publish", "presence"}, "news": []string{"join"}, "none": []string{}},
	})
	c, err := v.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Expires.Equal(time.Unix(soon, 0).Add(10*time.Second)) || string(c.State) != `{"name":"Ann"}` || c.All["plan"] != "gold" {
		t.Errorf("%+v", c)
	}
	if teams, _ := c.All["teams"].([]any); c.All["team"] != json.Number("9007199254740993") || len(teams) != 1 || teams[0] != json.Number("1.50") {
		t.Errorf("numbers are not as they were: %v", c.All)
	}
	if len(c.Rooms) != 3 || c.Rooms["chat:*"] != Join|Publish|Presence || c.Rooms["news"] != Join || c.Rooms["none"] != 0 {
		t.Errorf("rooms %v", c.Rooms)
	}
	c, err = v.Verify(t.Context(), sign(t, jose.HS256, secret, claims{"sub": "42", "rooms": claims{}, "state": nil}))
	if err != nil || c.Rooms == nil || !c.Expires.IsZero() || c.State != nil {
		t.Errorf("%+v, %v: no rooms at all is not no word of them", c, err)
	}
}

func TestNew(t *testing.T) {
	for name, test := range map[string]struct {
		opts Options
		want string
	}{
		"nothing":           {Options{}, "no key: secret, key or jwks is needed"},
		"short secret":      {Options{Secrets: [][]byte{[]byte("short")}}, "secret has 5 bytes (allowed: 32 or more, as RFC 7518 asks for)"},
		"algorithm of keys": {Options{Secrets: [][]byte{secret}, Algorithms: []string{"RS256"}}, `algorithm "RS256" fits none of the keys (allowed with them: [HS256 HS384 HS512])`},
		"none":              {Options{Secrets: [][]byte{secret}, Algorithms: []string{"none"}}, `algorithm "none" fits none of the keys (allowed with them: [HS256 HS384 HS512])`},
	} {
		if _, err := New(test.opts); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

func TestParseKeys(t *testing.T) {
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})
	two := append(publicPEM(t, rsaKey.Public()), publicPEM(t, edKey.Public())...)
	for name, test := range map[string]struct {
		text []byte
		n    int
		want string
	}{
		"two":        {two, 2, ""},
		"PKCS 1":     {pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)}), 1, ""},
		"nothing":    {[]byte("hello"), 0, "no PEM public key"},
		"private":    {private, 0, `"RSA PRIVATE KEY" is no public key`},
		"short":      {publicPEM(t, shortRSA.Public()), 0, "RSA key has 1024 bits"},
		"unreadable": {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), 0, "asn1"},
	} {
		keys, err := ParseKeys(test.text)
		if len(keys) != test.n || (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(sign(f, jose.HS256, secret, claims{"sub": "42"}))
	f.Add(forge(`{"alg":"none"}`, `{"sub":"42"}`, nil))
	f.Add(forge(`{"alg":"HS256","crit":["x"]}`, `{"sub":"42"}`, nil))
	v, err := New(Options{Secrets: [][]byte{secret}, Keys: []any{rsaKey.Public()}})
	if err != nil {
		f.Fatal(err)
	}
	good := sign(f, jose.HS256, secret, claims{"sub": "42"})
	f.Fuzz(func(t *testing.T, raw string) {
		if c, err := v.Verify(context.Background(), raw); err == nil && raw != good {
			// It could only be one with other bits behind the last character of a part, which decoders pass over.
			if c.User != "42" {
				t.Errorf("%q is valid: %+v", raw, c)
			}
		}
	})
}

// set is a key set as servers publish it.
func set(t testing.TB, keys map[string]crypto.PublicKey) []byte {
	t.Helper()
	var s jose.JSONWebKeySet
	for id, k := range keys {
		s.Keys = append(s.Keys, jose.JSONWebKey{Key: k, KeyID: id, Use: "sig"})
	}
	return must(json.Marshal(s))
}
