package uplink

import (
	"fmt"
	"time"
)

// maxOffset is how far apart the clocks of node and controller may be: beyond
// it commands come too late, and events are told in a wrong order.
const maxOffset = 5 * time.Second

// clockProblem compares this node's clock with the controller's, whose time came
// as the answer to a message sent at sent and received at received, by this
// node's clock. It returns "" when they agree, as far as that can be told.
func clockProblem(controller, sent, received time.Time) string {
	trip := received.Sub(sent)
	ahead := sent.Add(trip / 2).Sub(controller)
	word := "ahead of"
	if ahead < 0 {
		ahead, word = -ahead, "behind"
	}
	if ahead-trip/2 <= maxOffset {
		return ""
	}
	return fmt.Sprintf("this node's clock is %s %s the controller's: set the one that is wrong, and keep both right with NTP; traffic does not depend on it",
		ahead.Round(time.Second), word)
}
