package ledger

import (
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// keepRequests is how many requests of a cluster are known by their ids. It is
// not more than the revisions that a store keeps.
const keepRequests = 10_000

// requests knows what came of requests with an id. It is read from the
// revisions when the ledger opens; of requests that changed nothing it is lost
// then, and they may be judged anew.
type requests struct {
	numbers map[requestKey]uint64 // revision; 0: nothing changed
	order   []requestKey          // the oldest first
}

// requestKey keeps operators' requests apart.
type requestKey struct{ author, id string }

// newRequests reads the requests from revisions, the newest first.
func newRequests(revisions []*tandemv1.Revision) *requests {
	q := &requests{numbers: map[requestKey]uint64{}}
	for i := len(revisions) - 1; i >= 0; i-- {
		r := revisions[i]
		q.add(r.GetAuthor(), r.GetRequestId(), r.GetNumber())
	}
	return q
}

func (q *requests) add(author, id string, number uint64) {
	if id == "" {
		return
	}
	k := requestKey{author, id}
	if _, ok := q.numbers[k]; !ok {
		q.order = append(q.order, k)
	}
	q.numbers[k] = number
	if len(q.order) > keepRequests {
		delete(q.numbers, q.order[0])
		q.order = q.order[1:]
	}
}

// get returns what came of a request: the revision, or 0 for no change.
func (q *requests) get(author, id string) (number uint64, ok bool) {
	if q == nil || id == "" {
		return 0, false
	}
	number, ok = q.numbers[requestKey{author, id}]
	return number, ok
}
