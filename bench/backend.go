package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// publisher sends a message to a room. publish may hand it on, and is called by one goroutine.
type publisher interface {
	publish(payload []byte) error
}

// posting is how many requests of a backend are under way at most, each on a connection that is kept.
const posting = 4

// backend publishes over the HTTP API.
type backend struct {
	ctx    context.Context
	url    string
	secret string
	meter  *meter
	body   *bytes.Buffer // of the request that is not full yet
	room   []byte        // quoted
	batch  int           // messages of a request
	count  int           // of them in body
	bodies chan *bytes.Buffer
	work   sync.WaitGroup
}

// openBackend returns a backend that publishes to a room, in requests as o says. Its close ends it.
func openBackend(ctx context.Context, o *options, m *meter, room string) *backend {
	b := &backend{
		ctx: ctx, url: o.API + "/messages", secret: o.Secret, meter: m, body: new(bytes.Buffer), room: strconv.AppendQuote(nil, room),
		batch: o.Batch, bodies: make(chan *bytes.Buffer, posting),
	}
	if b.batch == 1 {
		b.url = o.API + "/rooms/" + room + "/messages"
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: posting}, Timeout: patience}
	for range posting {
		b.work.Go(func() {
			defer client.CloseIdleConnections()
			for body := range b.bodies {
				if err := b.post(client, body); err != nil {
					b.meter.refused.Add(int64(b.batch))
				}
			}
		})
	}
	return b
}

// publish implements publisher.
func (b *backend) publish(payload []byte) error {
	switch {
	case b.batch == 1:
		fmt.Fprintf(b.body, `{"data":"%s"}`, payload)
	case b.count == 0:
		fmt.Fprintf(b.body, `{"messages":[{"room":%s,"data":"%s"}`, b.room, payload)
	default:
		fmt.Fprintf(b.body, `,{"room":%s,"data":"%s"}`, b.room, payload)
	}
	if b.count++; b.count < b.batch {
		return nil
	}
	if b.batch > 1 {
		b.body.WriteString("]}")
	}
	full := b.body
	b.body, b.count = new(bytes.Buffer), 0
	select {
	case b.bodies <- full:
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

func (b *backend) post(client *http.Client, body io.Reader) error {
	r, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.url, body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+b.secret)
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err == nil && (resp.StatusCode != http.StatusOK || b.batch > 1 && !bytes.Contains(answer, []byte(`"failed":0`))) {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

// close ends the backend when its requests are answered.
func (b *backend) close() {
	close(b.bodies)
	b.work.Wait()
}
