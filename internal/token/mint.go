package token

import (
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Mint returns a token with these claims, signed with HS256 and a secret, for development and tests. It expires after a time; 0: never.
func Mint(secret []byte, claims map[string]any, expires time.Duration) (string, error) {
	if len(secret) < minSecret {
		return "", fmt.Errorf("secret has %d bytes (allowed: %d or more, as RFC 7518 asks for)", len(secret), minSecret)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, nil)
	if err != nil {
		return "", err
	}
	now := time.Now()
	times := jwt.Claims{IssuedAt: jwt.NewNumericDate(now)}
	if expires > 0 {
		times.Expiry = jwt.NewNumericDate(now.Add(expires))
	}
	return jwt.Signed(signer).Claims(claims).Claims(times).Serialize()
}
