// Package crash ends the process at chosen points, as a power cut or SIGKILL
// would, for tests that show what survives. Only a build with the tag
// crashpoints has it; in any other Pass is empty and costs nothing.
package crash

// Point is a place in the program between two steps that a crash may come
// between.
type Point string

// The points, in the order in which a change passes them.
const (
	BeforeCommit  Point = "before-commit"
	InTransaction Point = "in-transaction"
	Committed     Point = "committed"
	Published     Point = "published"
	Answered      Point = "answered"
	UpdateSent    Point = "update-sent"
	AckReceived   Point = "ack-received"
	EventWritten  Point = "event-written"
)

// All returns every point.
func All() []Point {
	return []Point{
		BeforeCommit, InTransaction, Committed, Published, Answered, UpdateSent, AckReceived, EventWritten,
	}
}
