// Package token verifies the JSON Web Tokens (RFC 7519) with which clients of an app's backend come to us: signed, never encrypted, by a
// shared secret, by keys in files, or by keys that a server publishes (RFC 7517).
package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Errors of Verify. What more there is to say is for logs, not for whoever shows the token.
var (
	// ErrInvalid says that the token is none, or not for us, or not now.
	ErrInvalid = errors.New("token is not valid")
	// ErrExpired is ErrInvalid of a token whose time is over.
	ErrExpired = fmt.Errorf("%w: it has expired", ErrInvalid)
	// ErrUnavailable says that the keys could not be had, so that nobody knows.
	ErrUnavailable = errors.New("the keys for tokens can't be had now")
)

// MaxLength is the longest token, in bytes. It is that of a header line that most servers take.
const MaxLength = 8 << 10

// Options say which tokens are valid. One at least of Secrets, Keys and JWKS is needed.
type Options struct {
	Secrets    [][]byte         // of HMAC, each as good as another
	Keys       []any            // public keys, as ParseKeys returns them
	JWKS       *JWKS            // keys that a server publishes; the Verifier does not own it
	Algorithms []string         // allowed, of those that Algorithms lists; empty: all that fit the kinds of keys
	Issuer     string           // that the token must have; empty: any
	Audience   string           // that the token must be for; empty: any
	Leeway     time.Duration    // by which clocks may differ
	now        func() time.Time // default time.Now
}

// Claims is what a valid token says.
type Claims struct {
	User    string         // sub; never empty
	Expires time.Time      // exp; zero: never
	Rooms   Rooms          // rooms; nil: no word of them
	State   []byte         // state, a JSON object; nil: none
	Signer  string         // which secret or key of the options has signed it, for Trusts; empty: a published key
	All     map[string]any // numbers in it are json.Number: as a float64, one id could become another
}

// Verifier verifies tokens. It is immutable; Verify may be called from any goroutine.
type Verifier struct {
	opts       Options
	algorithms []jose.SignatureAlgorithm
	secrets    []signer
	keys       []signer // of the options; published ones besides
}

// signer is what may have signed a token.
type signer struct {
	key any
	id  string // a hash of the key; empty: it is published
}

// The algorithms, by the kind of key. There is no "none" among them, and none of one kind verifies with a key of the other.
var (
	symmetric  = []string{"HS256", "HS384", "HS512"}
	asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)

// Algorithms lists all that are known.
func Algorithms() []string { return slices.Concat(symmetric, asymmetric) }

// New returns a Verifier, or what is wrong with the options.
func New(o Options) (*Verifier, error) {
	public := len(o.Keys) > 0 || o.JWKS != nil
	if !public && len(o.Secrets) == 0 {
		return nil, errors.New("no key: secret, key or jwks is needed")
	}
	if o.now == nil {
		o.now = time.Now
	}
	v := &Verifier{opts: o}
	for _, s := range o.Secrets {
		if err := checkSecret(s); err != nil {
			return nil, err
		}
		v.secrets = append(v.secrets, signer{s, hashed(s)})
	}
	for _, k := range o.Keys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, signer{k, hashed(der)})
	}
	var fitting []string
	if len(o.Secrets) > 0 {
		fitting = append(fitting, symmetric...)
	}
	if public {
		fitting = append(fitting, asymmetric...)
	}
	chosen := o.Algorithms
	if len(chosen) == 0 {
		chosen = fitting
	}
	for _, a := range chosen {
		if !slices.Contains(fitting, a) {
			return nil, fmt.Errorf("algorithm %q fits none of the keys (allowed with them: %v)", a, fitting)
		}
		v.algorithms = append(v.algorithms, jose.SignatureAlgorithm(a))
	}
	return v, nil
}

// minSecret is the shortest secret, in bytes (RFC 7518, section 3.2).
const minSecret = 32

// latestExpiry is the end of the year 9999, in seconds as exp is. Who writes milliseconds would have made a token that never ends.
const latestExpiry = 253_402_300_799

func checkSecret(secret []byte) error {
	if len(secret) < minSecret {
		return fmt.Errorf("secret has %d bytes (allowed: %d or more, as RFC 7518 asks for)", len(secret), minSecret)
	}
	return nil
}

func hashed(key []byte) string {
	sum := sha256.Sum256(key)
	return string(sum[:16])
}

// Signers returns what tells the configured secrets and keys from others, without telling them. A nil Verifier has none.
func (v *Verifier) Signers() (ids []string) {
	if v != nil {
		for _, s := range slices.Concat(v.secrets, v.keys) {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// Trusts tells whether tokens of a signer are still valid, as far as that is up to their signature. Published keys come and go: whatever one of
// them has signed stays valid until it expires. A nil Verifier trusts nobody.
func (v *Verifier) Trusts(id string) bool {
	if v == nil {
		return false
	}
	is := func(s signer) bool { return s.id == id }
	return id == "" && v.opts.JWKS != nil || slices.ContainsFunc(v.secrets, is) || slices.ContainsFunc(v.keys, is)
}

// Verify returns what a valid token says. ctx bounds the wait for keys that are not known yet.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Claims, error) {
	if len(raw) > MaxLength {
		return nil, fmt.Errorf("%w: it has %d bytes, allowed are %d", ErrInvalid, len(raw), MaxLength)
	}
	t, err := jwt.ParseSigned(raw, v.algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(t.Headers) != 1 {
		return nil, fmt.Errorf("%w: it has %d signatures", ErrInvalid, len(t.Headers))
	}
	signers, unknown := v.signers(ctx, t.Headers[0])
	err = errors.New("no key has signed it")
	var payload json.RawMessage
	for _, s := range signers {
		if err = t.Claims(s.key, &payload); err != nil {
			continue
		}
		c, err := v.claims(payload)
		if err != nil {
			return nil, err
		}
		c.Signer = s.id
		return c, nil
	}
	if unknown != nil {
		return nil, unknown
	}
	return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
}

// signers returns those that may have signed a token with that header. With an error there may be others, which could not be had.
func (v *Verifier) signers(ctx context.Context, h jose.Header) ([]signer, error) {
	if slices.Contains(symmetric, h.Algorithm) {
		return v.secrets, nil
	}
	if v.opts.JWKS == nil {
		return v.keys, nil
	}
	published, err := v.opts.JWKS.keys(ctx, h.KeyID, h.Algorithm)
	signers := slices.Clone(v.keys)
	for _, key := range published {
		signers = append(signers, signer{key: key})
	}
	return signers, err
}

// claims reads the payload of a token whose signature is right.
func (v *Verifier) claims(payload []byte) (*Claims, error) {
	var known struct {
		jwt.Claims
		Rooms json.RawMessage `json:"rooms"`
		State json.RawMessage `json:"state"`
	}
	c := &Claims{}
	all := json.NewDecoder(bytes.NewReader(payload))
	all.UseNumber()
	if err := errors.Join(json.Unmarshal(payload, &known), all.Decode(&c.All)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	expected := jwt.Expected{Issuer: v.opts.Issuer, Time: v.opts.now()}
	if v.opts.Audience != "" {
		expected.AnyAudience = jwt.Audience{v.opts.Audience}
	}
	switch err := known.ValidateWithLeeway(expected, v.opts.Leeway); {
	case errors.Is(err, jwt.ErrExpired):
		return nil, ErrExpired
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	case known.Subject == "":
		return nil, fmt.Errorf("%w: it has no sub", ErrInvalid)
	}
	c.User = known.Subject
	if known.Expiry != nil {
		if *known.Expiry > latestExpiry {
			return nil, fmt.Errorf("%w: exp %d is not in seconds", ErrInvalid, *known.Expiry)
		}
		c.Expires = known.Expiry.Time().Add(v.opts.Leeway)
	}
	var err error
	if c.Rooms, err = parseRooms(known.Rooms); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(known.State) > 0 && string(known.State) != "null" {
		if known.State[0] != '{' {
			return nil, fmt.Errorf("%w: state is no object", ErrInvalid)
		}
		c.State = known.State
	}
	return c, nil
}
