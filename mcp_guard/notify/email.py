"""Email over SMTP, with STARTTLS unless the configuration says otherwise."""

import smtplib
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

from mcp_guard.notify.message import Message
from mcp_guard.outbound import Options, Undelivered

SECONDS = 10


def send(options: Options, message: Message) -> None:
    """Raises: Undelivered."""
    values, mail = options.values, EmailMessage()
    mail["From"], mail["To"] = values["sender"], ", ".join(values["to"])
    mail["Subject"] = message.title[:200]
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.at, UTC))
    mail["Message-ID"] = f"<{message.id}@mcp-guard>"
    mail.set_content("\n\n".join(message.lines) + "\n")
    try:
        with smtplib.SMTP(values["host"], values["port"], timeout=SECONDS) as server:
            if values["starttls"]:
                server.starttls(context=ssl.create_default_context())
            if values["user"] is not None:
                server.login(values["user"], options.secret("password"))
            server.send_message(mail)
    except (OSError, smtplib.SMTPException) as error:
        code = getattr(error, "smtp_code", "")
        raise Undelivered(
            f"the mail server did not take it ({type(error).__name__}{f' {code}' if code else ''})"
        ) from None
