package token

import (
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Mint returns a token with these claims, signed with HS256 and a secret, for development and tests. It expires after a time; 0: never.
func Mint(secret []byte, claims map[string]any, expires time.Duration) (string, error) {
	if err := checkSecret(secret); err != nil {
		return "", err
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
