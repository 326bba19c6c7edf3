package module

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
)

const (
	// maxBatch is how many messages one request may have.
	maxBatch = 100
	// minBatchBody is how long the body of a batch may at least be, in bytes, however short a frame must be.
	minBatchBody = 1 << 20
)

// userMessage is the body of a message to a user.
type userMessage struct {
	Event       string          `json:"event"`
	Data        json.RawMessage `json:"data"`
	ExcludeConn optionalName    `json:"exclude_conn"`
}

// roomMessage is the body of a message to a room.
type roomMessage struct {
	userMessage
	ExcludeUser optionalName `json:"exclude_user"`
	ToUser      optionalName `json:"to_user"`
}

// batchMessage is a message of a batch.
type batchMessage struct {
	Room optionalName `json:"room"`
	User optionalName `json:"user"`
	roomMessage
}

const (
	userMessageForm  = `{"event":"…","data":…,"exclude_conn":"…"}, all but data may be left out`
	roomMessageForm  = `{"event":"…","data":…,"exclude_conn":"…","exclude_user":"…","to_user":"…"}, all but data may be left out`
	batchMessageForm = `{"room":"…" or "user":"…","event":"…","data":…,"exclude_conn":"…","exclude_user":"…","to_user":"…"}`
	batchForm        = `{"messages":[` + batchMessageForm + `,…]}`
)

// sentMessage is what became of a message, which has gone to one of the two.
type sentMessage struct {
	Room     string `json:"room,omitempty"`
	User     string `json:"user,omitempty"`
	Degraded bool   `json:"degraded,omitempty"`
}

func publishToRoom(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	return once(w, r, h, h.MaxMessage(), roomMessageForm, func(body []byte, degraded bool) (any, error) {
		m := batchMessage{Room: optionalName{true, room}}
		if err := decodeBody(body, roomMessageForm, &m.roomMessage); err != nil {
			return nil, err
		}
		return m.publish(r.Context(), h, degraded)
	})
}

func publishToUser(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	user, err := pathUser(r)
	if err != nil {
		return err
	}
	return once(w, r, h, h.MaxMessage(), userMessageForm, func(body []byte, degraded bool) (any, error) {
		m := batchMessage{User: optionalName{true, user}}
		if err := decodeBody(body, userMessageForm, &m.userMessage); err != nil {
			return nil, err
		}
		return m.publish(r.Context(), h, degraded)
	})
}

// batchResult is what became of a message of a batch.
type batchResult struct {
	Status int `json:"status"`
	sentMessage
}

// publishBatch sends messages in their order. One that is refused keeps none of the others.
func publishBatch(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	return once(w, r, h, max(minBatchBody, h.MaxMessage()), batchForm, func(body []byte, degraded bool) (any, error) {
		var batch struct {
			Messages []json.RawMessage `json:"messages"`
		}
		if err := decodeBody(body, batchForm, &batch); err != nil {
			return nil, err
		}
		if n := len(batch.Messages); n < 1 || n > maxBatch {
			return nil, badRequest("%d messages (allowed: 1 to %d)", n, maxBatch)
		}
		return sendBatch(r.Context(), h, batch.Messages, degraded), nil
	})
}

// batchAnswer is what became of all messages of a batch.
type batchAnswer struct {
	Results []any `json:"results"`
	Failed  int   `json:"failed"`
}

func sendBatch(ctx context.Context, h *sharedHub, batch []json.RawMessage, degraded bool) batchAnswer {
	answer := batchAnswer{Results: make([]any, len(batch))}
	var messages []hub.Message
	var places []int
	for i, raw := range batch {
		m, err := acceptOne(ctx, h, raw)
		if err != nil {
			answer.Results[i] = newProblem(withStatus(err))
			answer.Failed++
			continue
		}
		messages, places = append(messages, m), append(places, i)
	}
	for i, alone := range h.PublishAll(messages) {
		answer.Results[places[i]] = batchResult{http.StatusOK, sentMessage{messages[i].Room, messages[i].User, degraded || alone}}
	}
	return answer
}

// acceptOne returns a message of a batch, if it may be sent.
func acceptOne(ctx context.Context, h *sharedHub, raw []byte) (message hub.Message, err error) {
	if most := h.MaxMessage(); len(raw) > most {
		return message, statusError(http.StatusRequestEntityTooLarge, "message is too long (allowed: %d bytes)", most)
	}
	var m batchMessage
	if err := decodeBody(raw, batchMessageForm, &m); err != nil {
		return message, err
	}
	if m.Room.given == m.User.given {
		return message, badRequest("room %.300q and user %.300q: exactly one of them must be given", m.Room.name, m.User.name)
	}
	return m.accept(ctx, h)
}

// publish sends the message if it may be sent.
func (m *batchMessage) publish(ctx context.Context, h *sharedHub, degraded bool) (any, error) {
	message, err := m.accept(ctx, h)
	if err != nil {
		return nil, err
	}
	alone := h.Publish(message)
	return sentMessage{message.Room, message.User, degraded || alone}, nil
}

// accept returns the message as the hub has it, if it is as it should be and no limit of its room refuses it.
func (m *batchMessage) accept(ctx context.Context, h *sharedHub) (message hub.Message, err error) {
	if err := m.check(); err != nil {
		return message, err
	}
	if m.Room.given {
		if limit, decision := h.AllowMessage(ctx, m.Room.name); limit != nil {
			return message, &limitError{limit, decision}
		}
	}
	return hub.Message{
		Room: m.Room.name, User: m.User.name, Event: m.Event, Data: m.Data,
		Audience: hub.Audience{Only: m.ToUser.name, ExceptUser: m.ExcludeUser.name, ExceptConn: m.ExcludeConn.name},
	}, nil
}

// check tells what is wrong with the message, and fills in the event.
func (m *batchMessage) check() error {
	if m.User.given {
		if m.ToUser.given || m.ExcludeUser.given {
			return badRequest(`"to_user" and "exclude_user" are of messages to a room`)
		}
		if err := m.User.check("user"); err != nil {
			return err
		}
	} else if err := checkRoomName(m.Room.name); err != nil {
		return err
	}
	return cmp.Or(
		m.ExcludeConn.check("exclude_conn"), m.ExcludeUser.check("exclude_user"), m.ToUser.check("to_user"), checkMessage(&m.Event, m.Data),
	)
}
