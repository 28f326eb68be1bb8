// Package crash ends the process at chosen points, as a power cut or SIGKILL
// would, for tests that show what survives. Only a build with the tag
// crashpoints has it; in any other Pass is empty and costs nothing.
package crash

// Point is a place in the program between two steps that a crash may come
// between.
type Point string

// The points, in the order in which a change passes them.
const (
	CandidateWritten  Point = "candidate-written"
	Journalled        Point = "journalled"
	CandidateChecked  Point = "haproxy-candidate-checked"
	HandedOver        Point = "haproxy-handed-over"
	FileSwapped       Point = "haproxy-file-swapped"
	Reloaded          Point = "haproxy-reloaded"
	ServersChanged    Point = "haproxy-servers-changed"
	VRRPFileSwapped   Point = "keepalived-file-swapped"
	VRRPSignalled     Point = "keepalived-signalled"
	VRRPConfirmed     Point = "keepalived-confirmed"
	InEffect          Point = "in-effect"
	Promoted          Point = "promoted"
	Acked             Point = "acked"
	FileFollowed      Point = "haproxy-file-followed"
	GoodFileKept      Point = "haproxy-good-file-kept"
	StartFileReplaced Point = "haproxy-start-file-replaced"
)

// All returns every point.
func All() []Point {
	return []Point{
		CandidateWritten, Journalled, CandidateChecked, HandedOver, FileSwapped, Reloaded, ServersChanged,
		VRRPFileSwapped, VRRPSignalled, VRRPConfirmed, InEffect, Promoted, Acked,
		FileFollowed, GoodFileKept, StartFileReplaced,
	}
}
