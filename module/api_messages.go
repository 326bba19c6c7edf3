package module

import (
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

// publishBatch sends messages one after the other. One that is refused keeps none of the others.
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
		answer := struct {
			Results []any `json:"results"`
			Failed  int   `json:"failed"`
		}{Results: make([]any, len(batch.Messages))}
		for i, raw := range batch.Messages {
			sent, err := publishOne(r.Context(), h, raw, degraded)
			if err != nil {
				answer.Results[i] = newProblem(withStatus(err))
				answer.Failed++
				continue
			}
			answer.Results[i] = batchResult{http.StatusOK, sent}
		}
		return answer, nil
	})
}

// publishOne sends a message of a batch.
func publishOne(ctx context.Context, h *sharedHub, raw []byte, degraded bool) (sent sentMessage, err error) {
	if most := h.MaxMessage(); len(raw) > most {
		return sent, statusError(http.StatusRequestEntityTooLarge, "message is too long (allowed: %d bytes)", most)
	}
	var m batchMessage
	if err := decodeBody(raw, batchMessageForm, &m); err != nil {
		return sent, err
	}
	if m.Room.given == m.User.given {
		return sent, badRequest("room %.300q and user %.300q: exactly one of them must be given", m.Room.name, m.User.name)
	}
	return m.publish(ctx, h, degraded)
}

// publish sends the message if it is as it should be and no limit of its room refuses it.
func (m *batchMessage) publish(ctx context.Context, h *sharedHub, degraded bool) (sent sentMessage, err error) {
	if err := m.check(); err != nil {
		return sent, err
	}
	if m.Room.given {
		if limit, decision := h.AllowMessage(ctx, m.Room.name); limit != nil {
			return sent, &limitError{limit, decision}
		}
	}
	alone := h.Publish(hub.Message{
		Room: m.Room.name, User: m.User.name, Event: m.Event, Data: m.Data,
		Audience: hub.Audience{Only: m.ToUser.name, ExceptUser: m.ExcludeUser.name, ExceptConn: m.ExcludeConn.name},
	})
	return sentMessage{m.Room.name, m.User.name, degraded || alone}, nil
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
	for field, name := range map[string]optionalName{"exclude_conn": m.ExcludeConn, "exclude_user": m.ExcludeUser, "to_user": m.ToUser} {
		if err := name.check(field); err != nil {
			return err
		}
	}
	return checkMessage(&m.Event, m.Data)
}
