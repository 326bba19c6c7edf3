package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// minRSA is the shortest RSA key, in bits (RFC 7518, section 3.3).
const minRSA = 2048

// ParseKeys returns the public keys in PEM text: keys and certificates. A private key is refused: it has no business here.
func ParseKeys(text []byte) ([]any, error) {
	var keys []any
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		key, err := parseKey(block)
		if err != nil {
			return nil, err
		}
		if err := checkKey(key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no PEM public key or certificate in it")
	}
	return keys, nil
}

func parseKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("%q is no public key (allowed: PUBLIC KEY, RSA PUBLIC KEY, CERTIFICATE)", block.Type)
}

// checkKey refuses keys that sign nothing that we take.
func checkKey(key any) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA {
			return fmt.Errorf("RSA key has %d bits (allowed: %d or more)", bits, minRSA)
		}
		return nil
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("unknown kind of key %T (allowed: RSA, ECDSA, Ed25519)", key)
}
