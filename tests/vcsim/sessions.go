package main

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// session is one login: its property collectors, filters and views end with it, as in vCenter.
type session struct {
	user       types.UserSession
	collectors map[ref]*collector
	views      map[ref]*view
}

func (s *session) newRef(kind string) ref {
	return ref{Type: kind, Value: fmt.Sprintf("session[%s]%s", s.user.Key, uuid.New())}
}

func (s *session) end() {
	for _, c := range s.collectors {
		c.cancel()
	}
}

func (w *world) sessionOf(request *http.Request) *session {
	cookie, err := request.Cookie(soap.SessionCookieName)
	if err != nil {
		return nil
	}
	found := w.sessions[strings.Trim(cookie.Value, `"`)]
	if found != nil {
		found.user.LastActiveTime = now()
	}
	return found
}

var cookieHeader = regexp.MustCompile(`vcSessionCookie[^>]*>[^<]*?([0-9a-f-]{36})`)

// sessionInHeader finds the session that a client of another service names in the SOAP header.
func (w *world) sessionInHeader(data []byte) *session {
	match := cookieHeader.FindSubmatch(data)
	if match == nil {
		return nil
	}
	return w.sessions[string(match[1])]
}

func login(c *call) answer {
	w, request := c.world, c.body.(*types.Login)
	if c.session != nil {
		return faultText("Cannot complete login: there is a session already.", &types.InvalidLogin{})
	}
	if request.UserName != w.config.User || request.Password != w.config.Password {
		return faultText("Cannot complete login due to an incorrect user name or password.", &types.InvalidLogin{})
	}
	s := &session{
		user: types.UserSession{
			Key: uuid.New().String(), UserName: request.UserName, FullName: request.UserName, LoginTime: now(),
			LastActiveTime: now(), Locale: "en", MessageLocale: "en", ExtensionSession: types.NewBool(false),
		},
		collectors: map[ref]*collector{},
		views:      map[ref]*view{},
	}
	s.collectors[w.collectorRef] = newCollector(w.collectorRef)
	w.sessions[s.user.Key] = s
	http.SetCookie(c.writer, &http.Cookie{Name: soap.SessionCookieName, Value: s.user.Key, Path: "/", HttpOnly: true, Secure: true})
	return answer{body: &methods.LoginBody{Res: &types.LoginResponse{Returnval: s.user}}}
}

func logout(c *call) answer {
	c.session.end()
	delete(c.world.sessions, c.session.user.Key)
	return answer{body: &methods.LogoutBody{Res: &types.LogoutResponse{}}}
}

func sessionIsActive(c *call) answer {
	request := c.body.(*types.SessionIsActive)
	other := c.world.sessions[request.SessionID]
	body := &methods.SessionIsActiveBody{Res: &types.SessionIsActiveResponse{}}
	body.Res.Returnval = other != nil && other.user.UserName == request.UserName
	return answer{body: body}
}

func terminateSession(c *call) answer {
	for _, key := range c.body.(*types.TerminateSession).SessionId {
		other := c.world.sessions[key]
		if other == nil {
			return fault(&types.NotFound{})
		}
		other.end()
		delete(c.world.sessions, key)
	}
	return answer{body: &methods.TerminateSessionBody{Res: &types.TerminateSessionResponse{}}}
}

// endSessions is what an administrator's "disconnect" or an idle timeout does to all clients.
func (w *world) endSessions() {
	for key, s := range w.sessions {
		s.end()
		delete(w.sessions, key)
	}
}

func (w *world) sessionManager(self ref, current *session) *mo.SessionManager {
	manager := &mo.SessionManager{Self: self}
	if current != nil {
		user := current.user
		manager.CurrentSession = &user
		for _, s := range w.sessions {
			manager.SessionList = append(manager.SessionList, s.user)
		}
	}
	return manager
}
