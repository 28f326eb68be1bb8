package state

import (
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Env is what a change may know of the world.
type Env struct {
	// Now is the time of the change.
	Now time.Time
	// Author is who makes it: an operator's name, or "controller".
	Author string
	// Others are the heads of the other clusters: VRIDs must differ from theirs.
	Others []*Config
	// Passwords hashes statistics passwords; nil means Bcrypt.
	Passwords Passwords
}

// Change is one change to a configuration, made by the functions of this
// package and applied by Config.Apply.
type Change func(*Draft) error

// Draft is a configuration that a Change works on.
type Draft struct {
	*edition
	env Env
}

// Apply makes a change. It returns the new Config, one revision further, and
// what has changed in order of the names, before and after, without secrets.
// A change that changes nothing returns the same Config and no changes. The
// error is an *Error, and then nothing has changed.
func (c *Config) Apply(change Change, env Env) (*Config, []*tandemv1.Change, error) {
	panic("not yet")
}
