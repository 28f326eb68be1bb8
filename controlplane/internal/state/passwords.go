package state

import (
	"golang.org/x/crypto/bcrypt"
)

// Passwords hashes passwords. It is injected because hashing is slow and
// random.
type Passwords interface {
	// Hash returns a hash in crypt(3) form.
	Hash(password string) (string, error)
	// Matches tells whether hash was made of password.
	Matches(hash, password string) bool
}

// Bcrypt hashes with bcrypt at its lowest cost: HAProxy checks a password with
// every request for the statistics page, in the thread that also serves
// clients.
type Bcrypt struct{}

var _ Passwords = Bcrypt{}

// Hash returns a "$2a$" hash of a password of at most 72 bytes.
func (Bcrypt) Hash(password string) (string, error) {
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	return string(h), err
}

// Matches tells whether hash was made of password.
func (Bcrypt) Matches(hash, password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
}
