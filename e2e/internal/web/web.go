// Package web is the web server behind the load balancer in labs. Every answer
// says which server gave it, in the header X-Server and, as the guide greps
// for it, in a body line "Server: NAME".
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// ServerHeader is the response header with the name of the server.
const ServerHeader = "X-Server"

const (
	maxBody     = 1 << 20 // bytes of a request body that are echoed
	maxDelay    = time.Minute
	maxDownload = 1 << 30 // bytes
)

// Handler answers as the server of that name:
//
//	GET  any path               two lines, the second is "Server: NAME"
//	POST any path               the request body, at most 1 MiB
//	GET  /health                200
//	     /count                 how many requests it has got, but for these two paths
//	     /slow?ms=N             the same as elsewhere, N milliseconds later
//	GET  /download?bytes=N&ms=M N bytes, evenly spread over M milliseconds
//	any path with Upgrade: websocket echoes messages
func Handler(name string) http.Handler {
	var count atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, count.Load()) })
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /download", download)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		delay, err := milliseconds(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if wait(r.Context(), delay) == nil {
			answer(name, w, r)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { answer(name, w, r) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(ServerHeader, name)
		if r.URL.Path != "/health" && r.URL.Path != "/count" {
			count.Add(1)
		}
		if websocket.IsWebSocketUpgrade(r) {
			echoMessages(w, r, name)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func answer(name string, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		fmt.Fprintf(w, "Hello from the lab\nServer: %s\n", name)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that went away has nobody to tell
}

// download sends in pieces of ten milliseconds, so that a cut at any time
// truncates it.
func download(w http.ResponseWriter, r *http.Request) {
	const step = 10 * time.Millisecond
	size, err := strconv.Atoi(r.FormValue("bytes"))
	if err != nil || size < 0 || size > maxDownload {
		http.Error(w, fmt.Sprintf("bytes: want 0 to %d", maxDownload), http.StatusBadRequest)
		return
	}
	total, err := milliseconds(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(size))
	out := http.NewResponseController(w)
	steps := max(1, int(total/step))
	for i := range steps {
		piece := size*(i+1)/steps - size*i/steps
		if _, err := w.Write(make([]byte, piece)); err != nil || out.Flush() != nil {
			return
		}
		if wait(r.Context(), step) != nil {
			return
		}
	}
}

// milliseconds reads the query parameter ms, 0 to a minute; missing means 0.
func milliseconds(r *http.Request) (time.Duration, error) {
	text := r.FormValue("ms")
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.Atoi(text)
	d := time.Duration(ms) * time.Millisecond
	if err != nil || d < 0 || d > maxDelay {
		return 0, fmt.Errorf("ms: want 0 to %d", maxDelay.Milliseconds())
	}
	return d, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func echoMessages(w http.ResponseWriter, r *http.Request, name string) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, http.Header{ServerHeader: {name}})
	if err != nil {
		return // Upgrade has answered
	}
	defer conn.Close()
	conn.SetReadLimit(maxBody)
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// Serve answers on the listener until the context ends, then gives requests in
// flight a second to finish.
func Serve(ctx context.Context, listener net.Listener, name string) error {
	server := &http.Server{Handler: Handler(name), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // what is still open has had its second
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("web server %s: %w", name, err)
}
