package fleet

// mailbox holds at most one value: the latest.
type mailbox[T any] chan T

func newMailbox[T any]() mailbox[T] { return make(mailbox[T], 1) }

// put leaves v as the only value in the mailbox and never blocks. Callers take
// turns: one lock guards all puts into one mailbox.
func (m mailbox[T]) put(v T) {
	select {
	case <-m:
	default:
	}
	m <- v
}
