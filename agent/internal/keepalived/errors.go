package keepalived

import "errors"

// errEnded is returned when Run has returned.
var errEnded = errors.New("keepalived driver: has ended")

// RefusedError means that a configuration was not accepted: by the driver's
// own rules or by keepalived's checker. Trying again is useless; the last good
// configuration stays.
type RefusedError struct {
	// Reason in keepalived's or the driver's own words.
	Reason string
}

func (e *RefusedError) Error() string { return "keepalived configuration refused: " + e.Reason }

// FailedError means that an acceptable configuration could not be put in
// effect, such as for want of an interface. It may work later; the last good
// configuration stays.
type FailedError struct {
	// Err holds keepalived's words, where it said any.
	Err error
}

func (e *FailedError) Error() string { return "keepalived: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *FailedError) Unwrap() error { return e.Err }

// MissingError means that keepalived is not installed, too old, or built
// without what the driver needs.
type MissingError struct {
	// Reason with the cure.
	Reason string
}

func (e *MissingError) Error() string { return "keepalived is missing: " + e.Reason }
